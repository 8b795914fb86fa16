"""What deployer knows of llama.cpp: its sources, patches, options and flags."""

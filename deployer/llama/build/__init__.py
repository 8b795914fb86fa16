"""Source trees and binaries of llama.cpp."""

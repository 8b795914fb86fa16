"""From stack files to a prepared stack."""

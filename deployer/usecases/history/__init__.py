"""Reports and runs, and the page that shows them."""

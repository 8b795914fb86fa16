"""Plans and steps as text, JSON and Markdown: reads values, returns text."""

"""The dataset card, the preview page, and the push to the Hub."""

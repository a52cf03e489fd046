"""What a run leaves behind: scores, predictions, plots, the model card, and the push to the Hub."""

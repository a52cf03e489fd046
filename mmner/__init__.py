"""What training and evaluation of 2M-NER need and the weights do not."""

"""Image providers: where the images of a constructed dataset come from."""

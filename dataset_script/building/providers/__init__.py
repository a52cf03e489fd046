"""Image providers: where the pictures of a constructed dataset come from."""

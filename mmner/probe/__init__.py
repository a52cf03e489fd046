"""The synthetic probe: drawn images and template sentences in which only the image tells the type."""

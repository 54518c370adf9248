"""A label made up from the image itself."""

"""Learning images and their captions together."""

"""Learning from text: predicting words from their context, and sentences from themselves."""

"""Sentences as the field writes them down: formats, tag sets, datasets on the Hub, and what is done about slips."""

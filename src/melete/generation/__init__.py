"""Decoding: settings, functions on logits, the one decoding loop, and text from tokens as they come."""

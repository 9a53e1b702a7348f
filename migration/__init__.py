"""Brings a predecessor's Firestore data into Freya's PostgreSQL, once, without losing any of it."""

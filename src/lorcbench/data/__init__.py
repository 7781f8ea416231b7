"""Texts become documents, and documents become token windows: from the hub, from files, or from what Python carries.
May import `common`, `core` and `config`.
"""

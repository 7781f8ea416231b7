"""Results become a table, claims, a scorecard, figures, a page, and runs in MLflow. Reads artifacts only, never a
checkpoint, and imports no torch. May import `common`, `core`, `config` and `study`.
"""

"""The report page: one HTML file that fetches nothing, so that it opens from disk and travels by mail."""

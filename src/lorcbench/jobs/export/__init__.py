"""A cell as a folder that other people's libraries load: what is in it (`cell`), how it is written (`folder`), and the check of
what a library loads from it (`check`).
"""

"""The GitHub action (``action.yml`` at the root of the repository).

Each module is a step of it. Steps are run by their path, by whatever Python the workflow has:
nothing but the standard library may be imported at their top.
"""

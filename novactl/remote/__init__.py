"""Reaching hosts over SSH: the only importer of paramiko."""

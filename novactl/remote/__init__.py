"""Reaching hosts over SSH: the only importer of fabric and paramiko."""

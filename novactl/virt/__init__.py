"""Hypervisors: domain XML builders and what is asked of libvirt; its only importer."""

"""Cluster files: read, describe and write them, and the clusters that are shipped."""

from hexopt.clusters.files import cluster_names, describe, dump_cluster, load_cluster

__all__ = ["cluster_names", "describe", "dump_cluster", "load_cluster"]

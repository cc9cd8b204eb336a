"""Many files: in this process, in several, in shards of several machines, or on a Ray cluster; none is done twice."""

"""The demonstration: a gateway between simulated devices and a cloud, made of processes that it starts."""

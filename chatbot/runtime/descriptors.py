"""The limit on open file descriptors (RLIMIT_NOFILE), which connections, files and model servers share."""

import resource

RESERVED_DESCRIPTORS = (
    512  # for databases, model servers, other nodes and the runtime; connections of clients get the rest
)


def raise_descriptor_limit(wanted: int) -> int:
    """Raise this process's soft limit as far as `wanted` connections need it and the hard limit allows.

    Returns how many connections the limit leaves room for, `wanted` at most.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, connections_within(soft))


def connections_within(descriptors: int) -> int:
    """How many of so many descriptors are left for connections: at least half of them, so that some can be served."""
    return max(1, descriptors - min(RESERVED_DESCRIPTORS, descriptors // 2))

"""HTTP: bodies in, answers out, frames as they come. The only place that uses aiohttp's server side."""

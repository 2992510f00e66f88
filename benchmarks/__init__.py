"""Measurements of the library: flows a second beside bare aiohttp, growth with the number of stored flows, imports."""

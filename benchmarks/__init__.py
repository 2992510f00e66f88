"""What the library costs, measured: flows a second beside bare aiohttp, growth with what is stored, imports."""

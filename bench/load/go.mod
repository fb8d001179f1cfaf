module pullthrough.registry_cache/bench/load

go 1.26.0

tool pullthrough.registry_cache/bench/load

.PHONY: demo test lint format bench lock

demo test lint bench:
	./run $@

format:
	uv run --frozen ruff check --fix .
	uv run --frozen ruff format .

lock:
	uv lock
	./run config example > .env.example

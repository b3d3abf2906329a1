"""The parameters of a query: values in the order of its question marks, or by name."""

QueryParameters = tuple[int | str | None, ...] | dict[str, int | str | None]

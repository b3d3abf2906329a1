"""Pages for people: the API's document in Swagger UI and in ReDoc."""

"""Pages for people: the chat page, and the API's document in Swagger UI and in ReDoc."""

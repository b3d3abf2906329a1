"""The SQL that finds texts of a session that its forks still read, in pages: the cost of a page is that of its rows.

A session's own texts are at positions after its session_created event. A message at an earlier position is inherited
from the session that was forked.
"""

TEXTS_READ_BY_FORKS = """
SELECT max(message_id), json_group_array(position) FILTER (
    WHERE EXISTS (SELECT 1 FROM messages b INDEXED BY messages_borrowed
                  WHERE b.position = own.position AND b.position > 0 AND b.position < b.session_no))
FROM (SELECT message_id, iif(position > :no, position, 0) AS position FROM messages
      WHERE session_no = :no AND message_id > :after ORDER BY message_id LIMIT :limit) own
"""
FORKS_READING = """
SELECT DISTINCT b.session_no, s.session_id FROM messages b INDEXED BY messages_borrowed
    JOIN sessions s ON s.no = b.session_no
WHERE b.position = :position AND b.position > 0 AND b.position < b.session_no AND b.session_no > :after
ORDER BY b.session_no LIMIT :limit
"""
TEXTS_READ_BY = """
SELECT message_id, position, model FROM messages INDEXED BY messages_of_others
WHERE session_no = :fork_no AND position > :after AND position > 0 AND position < session_no
ORDER BY position LIMIT :limit
"""
# The event of an adopted message is the one right after session_created, at position `session_no`.
FORKED_MESSAGES = """
SELECT m.session_no, s.session_id, m.position FROM messages m INDEXED BY messages_adopted
    JOIN sessions s ON s.no = m.session_no
WHERE m.message_id = :message_id AND m.no / 1048576 = m.session_no + 1 AND m.session_no > :after
ORDER BY m.session_no LIMIT :limit
"""

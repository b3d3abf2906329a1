"""What a node asks of the server for its part in the projections."""

from projections.postgres.projection_schema import PREFIX, SCHEMA_VERSION

CHANNEL = f"SELECT 'projections_{SCHEMA_VERSION}_' || current_schema()::regnamespace::oid"
CHECKPOINT = f"SELECT position, digest, log_identity FROM {PREFIX}meta"  # noqa: S608  constants
ASK = f"""
SELECT position, CASE WHEN position < $1 OR $2 THEN pg_notify($3, $4)::text END FROM {PREFIX}meta
"""  # noqa: S608  constants
NOTIFY = "SELECT pg_notify($1, $2)"
# The session that has the lock is ended, and with it whatever it has not committed.
DEPOSE = """
SELECT pg_terminate_backend(pid) FROM pg_locks
 WHERE locktype = 'advisory' AND granted AND classid = $1::bigint::oid AND objsubid = 2
   AND objid = current_schema()::regnamespace::oid
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
# What to grant to a role that may not read some of the tables $1, and those that follow them.
NOT_READABLE = """
SELECT format('GRANT SELECT ON %s TO %I; ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA %I GRANT SELECT ON TABLES TO %I',
              string_agg(quote_ident(relname), ', '), current_user, pg_get_userbyid(min(relowner)), current_schema(),
              current_user)
  FROM pg_class
 WHERE relnamespace = current_schema()::regnamespace AND relname = ANY($1::text[]) AND NOT has_table_privilege(oid, 'SELECT')
HAVING count(*) > 0
"""  # noqa: E501

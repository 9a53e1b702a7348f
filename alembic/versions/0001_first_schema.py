"""The first schema: users and their streams, conversations, turns and messages, and the three tiers of memory.

Revision: 0001
Written: 2026-11-23 02:37:44.376252+00:00
"""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Left in place by a downgrade: others in the same database may use them.
EXTENSIONS = ("pg_trgm", "btree_gin", "unaccent")


def upgrade() -> None:
    for extension in EXTENSIONS:
        op.execute(f"CREATE EXTENSION IF NOT EXISTS {extension}")
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=True),
        sa.Column("time_zone", sa.Text(), server_default=sa.text("'UTC'"), nullable=False),
        sa.Column("memory_paused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("source", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("subject", name=op.f("uq_users_subject")),
    )
    op.create_table(
        "conversations",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_message_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("source", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_conversations_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("pk_conversations")),
    )
    op.create_index(
        op.f("ix_conversations_user_id_last_message_at"), "conversations", ["user_id", "last_message_at"], unique=False
    )
    op.create_table(
        "fact_tombstones",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_fact_tombstones_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", "digest", name=op.f("pk_fact_tombstones")),
    )
    op.create_table(
        "facts",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("slot", sa.Text(), nullable=False),
        sa.Column("single_valued", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("statement", sa.Text(), nullable=False),
        sa.Column("statement_hash", sa.LargeBinary(), nullable=False),
        sa.Column("value", sa.Text(), nullable=True),
        sa.Column("n_tokens", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("valid_from", sa.DateTime(timezone=True), nullable=True),
        sa.Column("valid_to", sa.DateTime(timezone=True), nullable=True),
        sa.Column("confirmations", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("contradictions", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("explicit", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("pinned", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("locked", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("sensitive", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("supersedes", sa.Uuid(), nullable=True),
        sa.Column("source", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "status IN ('active', 'pending', 'superseded', 'retracted', 'expired')", name=op.f("ck_facts_status")
        ),
        sa.CheckConstraint(
            "valid_to IS NULL OR valid_from IS NULL OR valid_from <= valid_to", name=op.f("ck_facts_interval")
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "supersedes"],
            ["facts.user_id", "facts.id"],
            name=op.f("fk_facts_user_id_supersedes"),
            ondelete="NO ACTION",
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_facts_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("pk_facts")),
    )
    op.create_index(op.f("ix_facts_user_id_status"), "facts", ["user_id", "status"], unique=False)
    op.create_index(
        "uq_facts_single_valued",
        "facts",
        ["user_id", "subject", "slot"],
        unique=True,
        postgresql_where=sa.text("status = 'active' AND single_valued"),
    )
    op.create_index(
        "uq_facts_statement",
        "facts",
        ["user_id", "statement_hash"],
        unique=True,
        postgresql_where=sa.text("status = 'active'"),
    )
    op.create_table(
        "stream_events",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("turn_id", sa.Uuid(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("attempt", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_stream_events_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", "seq", name=op.f("pk_stream_events")),
    )
    op.create_index(
        "ix_stream_events_created_at", "stream_events", ["created_at"], unique=False, postgresql_using="brin"
    )
    op.create_table(
        "streams",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("epoch", sa.Text(), nullable=False),
        sa.Column("head", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("floor", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("generation", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_message", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_streams_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_streams")),
        postgresql_with={"fillfactor": 50},
    )
    op.create_table(
        "topics",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("keywords", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("summary", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'current'"), nullable=False),
        sa.Column("continues", sa.Uuid(), nullable=True),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("source", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("state IN ('current', 'stale')", name=op.f("ck_topics_state")),
        sa.ForeignKeyConstraint(
            ["user_id", "continues"],
            ["topics.user_id", "topics.id"],
            name=op.f("fk_topics_user_id_continues"),
            ondelete="NO ACTION",
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_topics_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("pk_topics")),
    )
    op.create_index(op.f("ix_topics_user_id_last_at"), "topics", ["user_id", "last_at"], unique=False)
    op.create_table(
        "fact_events",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("fact_id", sa.Uuid(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("before", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("after", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id", "fact_id"],
            ["facts.user_id", "facts.id"],
            name=op.f("fk_fact_events_user_id_fact_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("pk_fact_events")),
    )
    op.create_index(
        op.f("ix_fact_events_user_id_fact_id_at"), "fact_events", ["user_id", "fact_id", "at"], unique=False
    )
    op.create_table(
        "segments",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("topic_id", sa.Uuid(), nullable=True),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("n_terms", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("first_seq <= last_seq", name=op.f("ck_segments_range")),
        sa.ForeignKeyConstraint(
            ["user_id", "conversation_id"],
            ["conversations.user_id", "conversations.id"],
            name=op.f("fk_segments_user_id_conversation_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "topic_id"],
            ["topics.user_id", "topics.id"],
            name=op.f("fk_segments_user_id_topic_id"),
            ondelete="NO ACTION",
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_segments_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("pk_segments")),
        sa.UniqueConstraint("user_id", "first_seq", name=op.f("uq_segments_user_id_first_seq")),
    )
    op.create_index(op.f("ix_segments_user_id_topic_id"), "segments", ["user_id", "topic_id"], unique=False)
    op.create_table(
        "turns",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("urgent", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("first_event", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("generation", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempt", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("lost", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("stop_requested", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("finish_reason", sa.Text(), nullable=True),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True),
        sa.Column("cached_tokens", sa.Integer(), nullable=True),
        sa.Column("completion_tokens", sa.Integer(), nullable=True),
        sa.Column("ttft_ms", sa.Integer(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_retryable", sa.Boolean(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'done') = (status IS NOT NULL)", name=op.f("ck_turns_status_when_done")),
        sa.CheckConstraint(
            "state <> 'running' OR (owner IS NOT NULL AND lease_expires_at IS NOT NULL)", name=op.f("ck_turns_lease")
        ),
        sa.CheckConstraint("state IN ('queued', 'running', 'done')", name=op.f("ck_turns_state")),
        sa.CheckConstraint(
            "status IN ('complete', 'stopped', 'interrupted', 'length', 'filtered', 'fallback')",
            name=op.f("ck_turns_status"),
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "conversation_id"],
            ["conversations.user_id", "conversations.id"],
            name=op.f("fk_turns_user_id_conversation_id"),
            ondelete="NO ACTION",
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_turns_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("pk_turns")),
    )
    op.create_index(
        "ix_turns_open", "turns", ["user_id", "position"], unique=False, postgresql_where=sa.text("state <> 'done'")
    )
    op.create_index(
        "uq_turns_one_running", "turns", ["user_id"], unique=True, postgresql_where=sa.text("state = 'running'")
    )
    op.create_table(
        "messages",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("turn_id", sa.Uuid(), nullable=True),
        sa.Column("reply_to", sa.BigInteger(), nullable=True),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("exact", sa.Text(), nullable=True),
        sa.Column("search_text", sa.Text(), nullable=True),
        sa.Column(
            "tsv",
            postgresql.TSVECTOR(),
            sa.Computed("to_tsvector('english', coalesce(search_text, ''))", persisted=True),
            nullable=True,
        ),
        sa.Column("n_terms", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("n_tokens", sa.Integer(), nullable=False),
        sa.Column("is_question", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("said_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("client_message_id", sa.Uuid(), nullable=True),
        sa.Column("source", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.CheckConstraint("role IN ('user', 'assistant')", name=op.f("ck_messages_role")),
        sa.ForeignKeyConstraint(
            ["user_id", "conversation_id"],
            ["conversations.user_id", "conversations.id"],
            name=op.f("fk_messages_user_id_conversation_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "turn_id"],
            ["turns.user_id", "turns.id"],
            name=op.f("fk_messages_user_id_turn_id"),
            ondelete="NO ACTION",
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_messages_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("pk_messages")),
        sa.UniqueConstraint("user_id", "seq", name=op.f("uq_messages_user_id_seq")),
    )
    op.create_index(
        op.f("ix_messages_user_id_conversation_id_seq"), "messages", ["user_id", "conversation_id", "seq"], unique=False
    )
    op.create_index("ix_messages_user_id_tsv", "messages", ["user_id", "tsv"], unique=False, postgresql_using="gin")
    op.create_index(
        "uq_messages_client_message_id",
        "messages",
        ["user_id", "client_message_id"],
        unique=True,
        postgresql_where=sa.text("client_message_id IS NOT NULL"),
    )
    op.create_index(
        "uq_messages_one_reply",
        "messages",
        ["user_id", "turn_id"],
        unique=True,
        postgresql_where=sa.text("role = 'assistant'"),
    )
    op.create_table(
        "prompt_traces",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("turn_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.SmallInteger(), nullable=False),
        sa.Column("n_tokens", sa.Integer(), nullable=False),
        sa.Column("blocks", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id", "turn_id"],
            ["turns.user_id", "turns.id"],
            name=op.f("fk_prompt_traces_user_id_turn_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("user_id", "turn_id", "attempt", name=op.f("pk_prompt_traces")),
    )
    op.create_table(
        "fact_sources",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("fact_id", sa.Uuid(), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("quote", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id", "fact_id"],
            ["facts.user_id", "facts.id"],
            name=op.f("fk_fact_sources_user_id_fact_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "message_id"],
            ["messages.user_id", "messages.id"],
            name=op.f("fk_fact_sources_user_id_message_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("user_id", "fact_id", "message_id", name=op.f("pk_fact_sources")),
    )
    op.create_index(op.f("ix_fact_sources_user_id_message_id"), "fact_sources", ["user_id", "message_id"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_fact_sources_user_id_message_id"), table_name="fact_sources")
    op.drop_table("fact_sources")
    op.drop_table("prompt_traces")
    op.drop_index("uq_messages_one_reply", table_name="messages", postgresql_where=sa.text("role = 'assistant'"))
    op.drop_index(
        "uq_messages_client_message_id",
        table_name="messages",
        postgresql_where=sa.text("client_message_id IS NOT NULL"),
    )
    op.drop_index("ix_messages_user_id_tsv", table_name="messages", postgresql_using="gin")
    op.drop_index(op.f("ix_messages_user_id_conversation_id_seq"), table_name="messages")
    op.drop_table("messages")
    op.drop_index("uq_turns_one_running", table_name="turns", postgresql_where=sa.text("state = 'running'"))
    op.drop_index("ix_turns_open", table_name="turns", postgresql_where=sa.text("state <> 'done'"))
    op.drop_table("turns")
    op.drop_index(op.f("ix_segments_user_id_topic_id"), table_name="segments")
    op.drop_table("segments")
    op.drop_index(op.f("ix_fact_events_user_id_fact_id_at"), table_name="fact_events")
    op.drop_table("fact_events")
    op.drop_index(op.f("ix_topics_user_id_last_at"), table_name="topics")
    op.drop_table("topics")
    op.drop_table("streams")
    op.drop_index("ix_stream_events_created_at", table_name="stream_events", postgresql_using="brin")
    op.drop_table("stream_events")
    op.drop_index("uq_facts_statement", table_name="facts", postgresql_where=sa.text("status = 'active'"))
    op.drop_index(
        "uq_facts_single_valued", table_name="facts", postgresql_where=sa.text("status = 'active' AND single_valued")
    )
    op.drop_index(op.f("ix_facts_user_id_status"), table_name="facts")
    op.drop_table("facts")
    op.drop_table("fact_tombstones")
    op.drop_index(op.f("ix_conversations_user_id_last_message_at"), table_name="conversations")
    op.drop_table("conversations")
    op.drop_table("users")

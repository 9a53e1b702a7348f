"""What the memory works with: how far it has come, the statistics of its search, and marks on what it has read.

Revision: 0002, after 0001
Written: 2026-11-23 07:10:18.229755+00:00
"""

import sqlalchemy as sa

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "collection_stats",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("n_messages", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("n_terms", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_collection_stats_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_collection_stats")),
    )
    op.create_table(
        "memory_work",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("done_seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("dead", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("last_run_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("kind IN ('index', 'facts', 'topics')", name=op.f("ck_memory_work_kind")),
        sa.CheckConstraint("(owner IS NULL) = (lease_expires_at IS NULL)", name=op.f("ck_memory_work_lease")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_memory_work_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", "kind", name=op.f("pk_memory_work")),
    )
    op.create_table(
        "obeyed_commands",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id", "message_id"],
            ["messages.user_id", "messages.id"],
            name=op.f("fk_obeyed_commands_user_id_message_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("user_id", "message_id", name=op.f("pk_obeyed_commands")),
    )
    op.add_column(
        "facts",
        sa.Column("said_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
    )
    op.create_table(
        "term_stats",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("lexeme", sa.Text(), nullable=False),
        sa.Column("n_messages", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_term_stats_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", "lexeme", name=op.f("pk_term_stats")),
        postgresql_with={"fillfactor": 70},
    )
    op.create_index(
        "ix_term_stats_lexeme",
        "term_stats",
        ["user_id", "lexeme"],
        unique=False,
        postgresql_using="gin",
        postgresql_ops={"lexeme": "gin_trgm_ops"},
    )
    op.drop_column("segments", "n_terms")
    op.drop_index(op.f("ix_segments_user_id_topic_id"), table_name="segments")
    op.create_index(
        "ix_segments_topic_id", "segments", ["user_id", "topic_id"], postgresql_where=sa.text("topic_id IS NOT NULL")
    )
    op.add_column("conversations", sa.Column("grouped", sa.Text(), server_default=sa.text("'open'"), nullable=False))
    op.create_check_constraint(
        op.f("ck_conversations_grouped"), "conversations", "grouped IN ('open', 'makeshift', 'done')"
    )
    op.create_index(
        "ix_conversations_ungrouped",
        "conversations",
        ["last_message_at"],
        unique=False,
        postgresql_where=sa.text("grouped <> 'done'"),
    )
    op.add_column("messages", sa.Column("segment", sa.BigInteger(), nullable=True))
    op.drop_column("messages", "n_terms")
    op.add_column("turns", sa.Column("client_message_id", sa.Uuid(), nullable=True))
    op.create_index(
        "uq_turns_client_message_id",
        "turns",
        ["user_id", "client_message_id"],
        unique=True,
        postgresql_where=sa.text("client_message_id IS NOT NULL"),
    )
    op.create_index(
        "ix_messages_user_id_turn_id",
        "messages",
        ["user_id", "turn_id"],
        unique=False,
        postgresql_where=sa.text("turn_id IS NOT NULL"),
    )
    op.execute("ALTER TABLE messages SET (fillfactor = 85)")
    op.execute("ALTER INDEX ix_messages_user_id_tsv SET (fastupdate = off)")
    op.execute("UPDATE messages SET search_text = lower(text) WHERE search_text IS NULL")
    op.add_column(
        "users", sa.Column("memory_key", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False)
    )


def downgrade() -> None:
    op.drop_column("users", "memory_key")
    op.drop_column("facts", "said_at")
    op.drop_table("obeyed_commands")
    op.add_column(
        "messages", sa.Column("n_terms", sa.INTEGER(), server_default=sa.text("0"), autoincrement=False, nullable=False)
    )
    op.execute("ALTER INDEX ix_messages_user_id_tsv RESET (fastupdate)")
    op.execute("ALTER TABLE messages RESET (fillfactor)")
    op.drop_index("ix_messages_user_id_turn_id", table_name="messages", postgresql_where=sa.text("turn_id IS NOT NULL"))
    op.drop_index(
        "uq_turns_client_message_id",
        table_name="turns",
        postgresql_where=sa.text("client_message_id IS NOT NULL"),
    )
    op.drop_column("turns", "client_message_id")
    op.drop_column("messages", "segment")
    op.drop_index(
        "ix_conversations_ungrouped", table_name="conversations", postgresql_where=sa.text("grouped <> 'done'")
    )
    op.drop_constraint(op.f("ck_conversations_grouped"), "conversations", type_="check")
    op.drop_column("conversations", "grouped")
    op.drop_index("ix_segments_topic_id", table_name="segments")
    op.create_index(op.f("ix_segments_user_id_topic_id"), "segments", ["user_id", "topic_id"])
    op.add_column("segments", sa.Column("n_terms", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.drop_index(
        "ix_term_stats_lexeme",
        table_name="term_stats",
        postgresql_using="gin",
        postgresql_ops={"lexeme": "gin_trgm_ops"},
    )
    op.drop_table("term_stats")
    op.drop_table("memory_work")
    op.drop_table("collection_stats")

"""What the tables are made of: names of constraints, kinds of columns, and keys that begin with the user."""

from typing import Any

from sqlalchemy import DateTime, ForeignKeyConstraint, text
from sqlmodel import Field, SQLModel

SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

Json = dict[str, Any]
Moment = DateTime(timezone=True)


def now(**options: Any) -> Any:
    return Field(sa_type=Moment, sa_column_kwargs={"server_default": text("now()")}, **options)  # pyright: ignore[reportArgumentType]


def moment(**options: Any) -> Any:
    return Field(sa_type=Moment, **options)  # pyright: ignore[reportArgumentType]


def default(value: str, **options: Any) -> Any:
    return Field(sa_column_kwargs={"server_default": text(value)}, **options)


def owned_by(table: str, column: str, ondelete: str = "CASCADE") -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["user_id", column], [f"{table}.user_id", f"{table}.id"], ondelete=ondelete)


def of_user() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE")

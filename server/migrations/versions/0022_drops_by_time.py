"""An index of a resident's drops by their time: another record of the same bag is looked for at each payment."""

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Built beside the drops that go on meanwhile, so it cannot be part of a transaction.
    with op.get_context().autocommit_block():
        op.create_index(
            "sorting_drop_dropped_at_ix",
            "sorting_drop",
            ["resident_id", "dropped_at"],
            postgresql_concurrently=True,
            if_not_exists=True,
        )


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only; restore the backup instead.")

"""Since when a scanner is carried by whom: nobody confirms what another one read."""

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Some databases were given the column by an edition of 0015 that came after the first.
    op.execute("ALTER TABLE scanner ADD COLUMN IF NOT EXISTS carried_since timestamptz")


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only; restore the backup instead.")

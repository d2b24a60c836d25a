-- Snapshots: templates whose builds are what running sandboxes once were.

ALTER TABLE templates ADD COLUMN snapshot BOOLEAN NOT NULL DEFAULT FALSE;

-- The sandbox that a snapshot's build was made of. It may be gone, so it refers to no table.
ALTER TABLE builds ADD COLUMN source_sandbox TEXT;

-- Whether a build is still named is asked whenever a tag goes or moves.
CREATE INDEX template_tags_by_build ON template_tags (build_id);

-- Sandboxes that have been paused: what it takes to resume them after the server, or the machine, was restarted.

CREATE TABLE paused_sandboxes (
    id           TEXT   PRIMARY KEY NOT NULL,
    -- What it was asked to be, as JSON, with its tokens.
    spec         TEXT   NOT NULL,
    -- The snapshot to resume from.
    build_id     TEXT   NOT NULL,
    envd_version TEXT   NOT NULL,
    paused_at    BIGINT NOT NULL
);

-- The builds that belong to a snapshot, itself among them. They refer to no table, and the sandbox to no team: a row here
-- is what leads to files on disk, so it goes only when somebody deletes these.
CREATE TABLE paused_sandbox_builds (
    sandbox_id TEXT   NOT NULL REFERENCES paused_sandboxes (id) ON DELETE CASCADE,
    -- The order they were given in.
    ordinal   BIGINT NOT NULL,
    build_id   TEXT   NOT NULL,
    PRIMARY KEY (sandbox_id, ordinal)
);

CREATE INDEX paused_sandbox_builds_by_build ON paused_sandbox_builds (build_id);

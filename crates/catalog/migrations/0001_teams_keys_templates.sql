-- Every statement here and every query of this crate is valid in SQLite and in PostgreSQL.
-- Times are microseconds since 1970-01-01 UTC.

CREATE TABLE teams (
    id            TEXT   PRIMARY KEY NOT NULL,
    slug          TEXT   NOT NULL UNIQUE,
    name          TEXT   NOT NULL,
    max_sandboxes BIGINT NOT NULL,
    max_hours     BIGINT NOT NULL,
    created_at    BIGINT NOT NULL
);

CREATE TABLE api_keys (
    id          TEXT   PRIMARY KEY NOT NULL,
    team_id     TEXT   NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    name        TEXT   NOT NULL,
    -- SHA-256 of the whole key in lower-case hexadecimal. A key has 160 random bits, so a slow hash adds nothing.
    hash        TEXT   NOT NULL UNIQUE,
    mask_prefix TEXT   NOT NULL,
    mask_suffix TEXT   NOT NULL,
    created_at  BIGINT NOT NULL
);

CREATE INDEX api_keys_by_team ON api_keys (team_id);

CREATE TABLE templates (
    id              TEXT    PRIMARY KEY NOT NULL,
    -- NULL: built in, everybody's.
    team_id         TEXT    REFERENCES teams (id) ON DELETE CASCADE,
    public          BOOLEAN NOT NULL,
    created_at      BIGINT  NOT NULL,
    updated_at      BIGINT  NOT NULL,
    spawn_count     BIGINT  NOT NULL,
    last_spawned_at BIGINT
);

CREATE INDEX templates_by_team ON templates (team_id);

CREATE TABLE template_aliases (
    -- The id of the owning team, or the empty text for built-in templates.
    namespace   TEXT NOT NULL,
    alias       TEXT NOT NULL,
    template_id TEXT NOT NULL REFERENCES templates (id) ON DELETE CASCADE,
    PRIMARY KEY (namespace, alias)
);

CREATE INDEX template_aliases_by_template ON template_aliases (template_id);

CREATE TABLE builds (
    id           TEXT   PRIMARY KEY NOT NULL,
    template_id  TEXT   NOT NULL REFERENCES templates (id) ON DELETE CASCADE,
    vcpus        BIGINT NOT NULL,
    memory_mib   BIGINT NOT NULL,
    disk_mib     BIGINT NOT NULL,
    envd_version TEXT   NOT NULL,
    created_at   BIGINT NOT NULL
);

CREATE INDEX builds_by_template ON builds (template_id);

CREATE TABLE template_tags (
    template_id TEXT   NOT NULL REFERENCES templates (id) ON DELETE CASCADE,
    tag         TEXT   NOT NULL,
    build_id    TEXT   NOT NULL REFERENCES builds (id),
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (template_id, tag)
);

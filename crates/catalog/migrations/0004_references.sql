-- Which builds a paused sandbox needs follows from the build that it is paused into.

DROP TABLE paused_sandbox_builds;

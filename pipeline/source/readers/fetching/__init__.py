"""Images that a table names: from disks, object storage and web servers."""

# What of pyproject.toml decides the environment that bin/build needs: sed -n -f bin/wants.sed pyproject.toml
/^ *#/d
/^requires-python/p
/^dependencies = \[/,/^\]/p
/^\[project.optional-dependencies\]/,/^dev = /{
/^dev = /!p
}

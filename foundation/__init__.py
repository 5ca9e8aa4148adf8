"""What every room stands on: errors, settings, artefact folders, fingerprints, statistics, versions. Imports none of them."""

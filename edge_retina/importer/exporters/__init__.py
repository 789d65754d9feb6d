"""For a trainer's environment: models exported with their DetectorSpec in the metadata; one file per trainer."""

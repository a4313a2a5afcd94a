import numpy as np


def test_drawn_features_change_the_picture_where_they_should(drawing):
    """Each named feature darkens or lights its own region and little else."""
    who = drawing.people(np.random.default_rng(0), 1)
    still = np.zeros((1, len(drawing.UNITS)))

    def face(action=still, **change):
        changed = who._replace(**{"glasses": np.zeros(1), "beard": np.zeros(1)} | change)
        return drawing.draw(np.random.default_rng(3), changed, action)[0].astype(int)

    plain = face()
    upper, lower = slice(0, 28), slice(28, 48)
    glasses, beard = (np.abs(face(**{k: np.ones(1)}) - plain) for k in ("glasses", "beard"))
    assert glasses[upper].sum() > 5 * glasses[lower].sum() and beard[lower].sum() > 5 * beard[upper].sum()
    for unit, region in ((1, upper), (4, upper), (12, lower), (26, lower)):
        action = still.copy()
        action[0, drawing.UNITS.index(unit)] = 1
        moved = np.abs(face(action) - plain)
        other = lower if region is upper else upper
        assert moved[region].sum() > 1.5 * moved[other].sum() and moved.max() > 40, unit


def test_one_person_shows_every_expression(drawing):
    faces = {name: drawing.face(action) for name, action in drawing.ACTION_UNITS.items()}
    assert np.array_equal(faces["sad"], drawing.face(drawing.ACTION_UNITS["sad"]))
    for name, face in faces.items():
        assert face.shape == (48, 48) and not np.array_equal(face, drawing.face(drawing.ACTION_UNITS[name], person=18))
        assert name == "neutral" or 0.5 < np.abs(face - faces["neutral"].astype(int)).mean() < 20

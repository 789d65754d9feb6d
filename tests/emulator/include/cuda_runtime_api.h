// In place of the toolkit's header: types, and nothing that could wait, allocate or copy.
#pragma once

#include "vectors.h"

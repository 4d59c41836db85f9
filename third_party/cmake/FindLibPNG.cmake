# LibPNG::LibPNG; needs zlib
include(${CMAKE_CURRENT_LIST_DIR}/HoneLibrary.cmake)
hone_find_library(LibPNG HEADER png.h NAMES png16 png
                  VERSION_REGEX "define PNG_LIBPNG_VER_STRING +\"([0-9.]+)")

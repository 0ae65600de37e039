# Golden values for tests/points/test_estimate.py, by an implementation that we had no part in.
# R 4.2.2, survey 4.1-1 and MASS (Debian 12):  cd tests/points/data && Rscript raking_golden.R > raking_golden.json
suppressPackageStartupMessages(library(survey))
sample <- read.csv("raking_sample.csv", colClasses = c(
  stratum = "character", cluster = "character", csp = "character", n_cars = "character", city_category = "character"))
margins <- read.csv("raking_margins.csv", colClasses = c(category = "character"))
population <- function(name) {
  rows <- margins[margins$variable == name, ]
  # Each margin to the same total, to the last digit.
  table <- data.frame(rows$category, rows$persons / sum(rows$persons) * 1e6)
  names(table) <- c(name, "Freq")
  table
}
names3 <- c("csp", "n_cars", "city_category")
tables <- lapply(names3, population)
formulas <- list(~csp, ~n_cars, ~city_category)
design <- svydesign(ids = ~cluster, strata = ~stratum, weights = ~weight, data = sample, nest = TRUE)
raked <- rake(design, formulas, tables, control = list(maxit = 500, epsilon = 1e-7))
as_drawn <- svydesign(ids = ~cluster, strata = ~stratum, weights = weights(raked), data = sample, nest = TRUE)
# Deville and Särndal's residuals, fitted with the weights of the drawing.
totals <- c(`(Intercept)` = 1e6)
for (place in 1:3) {
  table <- tables[[place]][order(tables[[place]][[1]]), ]
  others <- table$Freq[-1]
  names(others) <- paste0(names3[place], table[[1]][-1])
  totals <- c(totals, others)
}
calibrated <- calibrate(design, ~csp + n_cars + city_category, totals, calfun = "raking", epsilon = 1e-12, maxit = 200)
# Each household left out in turn, and what is left raked again.
left_out <- rake(as.svrepdesign(design, type = "JKn"), formulas, tables, control = list(maxit = 500, epsilon = 1e-6))
told <- function(made) sprintf('{"share": %.12f, "se": %.12f}', coef(made), SE(made))
ratio <- function(design) told(svyratio(~green, ~trips, design))
cat("{\n",
    sprintf('  "as_drawn": %s,\n', ratio(design)),
    sprintf('  "raked_taken_as_drawn": %s,\n', ratio(as_drawn)),
    sprintf('  "raked_swept": %s,\n', ratio(raked)),
    sprintf('  "raked_residuals_of_drawing": %s,\n', ratio(calibrated)),
    sprintf('  "raked_jackknife": %s,\n', ratio(left_out)),
    sprintf('  "first_weights": [%s]\n', paste(sprintf("%.8f", weights(raked)[1:8]), collapse = ", ")),
    "}\n", sep = "")

"""What is wrong with data: findings, outliers, shortcuts, cohort."""
